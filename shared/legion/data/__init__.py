"""Text into blocks of tokens: sources, tokenizers and packing on the server, blocks and batches on workers."""
