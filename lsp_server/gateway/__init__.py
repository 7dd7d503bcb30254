"""HTTP front doors to the engine: the OpenAI protocol and llama.cpp's."""
