terraform import clusterd_secret.db default/db
