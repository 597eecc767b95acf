"""The prediction log: schema, writer, reader, outcomes, export, retention."""
