data "clusterd_cluster" "this" {}

output "free" {
  value = data.clusterd_cluster.this.free
}
