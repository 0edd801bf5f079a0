"""A stream in a language model's cache: sessions, what they remember, where tokens stand, how answers are chosen."""
