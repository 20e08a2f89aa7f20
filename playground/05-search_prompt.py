#!/usr/bin/env python3
"""Try prompts before any training: ./05-search_prompt.py --help shows examples."""

from start import run

run("search-prompt")
