data "clusterd_placement" "three" {
  replicas  = 3
  cpu       = "100m"
  memory    = "64Mi"
  placement = { one_per = "node" }
}

output "where_one_more_could_run" {
  value = [for name, node in data.clusterd_placement.three.nodes : name if node.fits]
}
