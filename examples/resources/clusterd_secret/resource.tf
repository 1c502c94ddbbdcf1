variable "database_url" {
  type      = string
  ephemeral = true
  default   = "postgres://shop@db/shop"
}

resource "clusterd_secret" "db" {
  name     = "db"
  data_wo  = { url = var.database_url }     # written, and never in plan or state
  generate = { password = { length = 40 } } # made by the cluster, and shown to nobody
}

# Containers find it as variables, or better as files in memory.
resource "clusterd_app" "web" {
  name    = "web"
  image   = "nginx:1.27"
  secrets = { DATABASE_URL = "${clusterd_secret.db.name}/url" }
  files   = { "/run/secrets/password" = { secret = "${clusterd_secret.db.name}/password" } }
}
