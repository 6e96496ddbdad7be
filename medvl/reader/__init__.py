"""The model: loading, pictures to patches, decoding. The only room that imports torch."""
