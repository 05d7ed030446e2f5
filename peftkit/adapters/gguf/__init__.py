"""GGUF files that llama.cpp, Ollama and LM Studio load: of an adapter, and of a merged model."""
