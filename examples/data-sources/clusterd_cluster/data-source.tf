data "clusterd_cluster" "this" {}

output "nodes_that_take_pods" {
  value = data.clusterd_cluster.this.ready
}
