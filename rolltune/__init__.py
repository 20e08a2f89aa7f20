"""rolltune: fine-tune vision-language models on your own labelled images, many rolls at once."""
