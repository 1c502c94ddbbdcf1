output "urls" {
  description = "Where the service answers: on every node."
  value       = [for node in data.clusterd_nodes.all.nodes : "http://${node.address}:${var.node_port}/"]
}
