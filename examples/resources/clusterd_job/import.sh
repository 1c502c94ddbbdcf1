# namespace/name
terraform import clusterd_job.report default/report
