"""Writes GGUF files for llama.cpp, and Modelfiles for Ollama."""
