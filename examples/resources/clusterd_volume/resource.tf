# A filesystem of 256 MiB on the disk of the node that first mounts it. It can
# grow, and stays when the app goes.
resource "clusterd_volume" "data" {
  name = "data"
  size = "256Mi"

  # Once the data matters, leave this out: a volume is protected unless it says no.
  deletion_protection = false
}

resource "clusterd_app" "db" {
  name  = "db"
  image = "redis:7"
  mounts = {
    "/data" = { volume = clusterd_volume.data.name }
    "/tmp"  = { scratch = "64Mi" }
  }
}
