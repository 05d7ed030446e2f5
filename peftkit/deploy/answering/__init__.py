"""Answers the rows of a file with an adapter, and chats with it at the terminal."""
