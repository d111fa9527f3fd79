"""The steps from each schema of the SQL stores to the next, for Alembic. They are data: ``sql_migrate`` runs them."""
