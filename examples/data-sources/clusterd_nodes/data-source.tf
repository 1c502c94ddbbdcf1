data "clusterd_nodes" "ssd" {
  labels = { disk = "ssd" }
}

output "ready" {
  value = [for name, node in data.clusterd_nodes.ssd.nodes : name if node.health == "ready"]
}
