"""The Arctic-SnowCoder recipe: corpus, tokenizer, fill-in-the-middle samples, trainer."""
