output "name" {
  description = "Name of the app."
  value       = clusterd_app.this.name
}

output "dns_name" {
  description = "Name that pods of the cluster reach it by, on port 80."
  value       = clusterd_service.this.dns_name
}

output "virtual_ip" {
  description = "Address that pods and nodes of the cluster reach it by."
  value       = clusterd_service.this.virtual_ip
}
