data "clusterd_app" "web" {
  name = "web"
}

output "where" {
  value = { for name, pod in data.clusterd_app.web.pods : name => pod.node }
}

output "last_rollout" {
  value = data.clusterd_app.web.rollout.phase
}
