"""The server: cameras send prefixes of streams, each is decoded by its deadline, and what came of it is answered."""
