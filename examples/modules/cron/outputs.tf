output "name" {
  description = "Name of the job."
  value       = clusterd_job.this.name
}
