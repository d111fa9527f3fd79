"""Where sessions are kept: memory, SQL (SQLite and PostgreSQL), Redis."""
