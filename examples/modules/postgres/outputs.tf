output "host" {
  description = "Name that pods of the cluster reach the database by, on port 5432."
  value       = clusterd_service.this.dns_name
}

output "database" {
  description = "Name of the database."
  value       = var.database
}

output "user" {
  description = "Owner of the database."
  value       = var.user
}

output "password" {
  description = "Where apps find the password: secrets = { PGPASSWORD = module.db.password }."
  value       = "${clusterd_secret.this.name}/password"
}
