"""Files of llama.cpp, and Modelfiles of Ollama."""
