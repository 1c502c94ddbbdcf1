output "name" {
  description = "Name of the app."
  value       = clusterd_app.this.name
}
