"""The built-in tiny PaliGemma: its generated pretraining tasks, its tokenizer, its sample advertisements."""
