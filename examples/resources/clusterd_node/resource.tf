# The machine joins by itself; this waits until it is ready, and says what it is for.
resource "clusterd_node" "w9" {
  name   = "w9"
  labels = { zone = "a", disk = "ssd" }
  taints = { dedicated = "shop:no_schedule" }
}
