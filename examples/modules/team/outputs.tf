output "namespace" {
  description = "Namespace of the team: pass it to the other modules, so that it is made first."
  value       = clusterd_namespace.this.name
}
