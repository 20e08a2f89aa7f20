#!/usr/bin/env python3
"""What a training will need of a card: ./09-plan_memory.py --help shows examples."""

from start import run

run("plan-memory")
