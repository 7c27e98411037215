"""Whether an engine says what `transformers` says, whatever KV it reuses and whoever runs beside."""
