# namespace/name
terraform import clusterd_job.migrate default/migrate
