"""The admin's limits: the schema of the file, its loading, what it means for one person, and the checks made with
it."""
