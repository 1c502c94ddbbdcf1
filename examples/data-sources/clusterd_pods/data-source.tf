data "clusterd_pods" "on_w1" {
  node = "w1"
}

output "restarted" {
  value = [for name, pod in data.clusterd_pods.on_w1.pods : name if pod.restarts > 0]
}
