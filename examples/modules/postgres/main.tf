# The password is made on the server: neither the state nor a plan ever has it.
resource "clusterd_secret" "this" {
  namespace = var.namespace
  name      = var.name
  generate  = { password = { length = 32 } }
}

resource "clusterd_app" "this" {
  namespace = var.namespace
  name      = var.name
  image     = var.image
  stateful  = { on_isolation = var.on_isolation }
  replicas  = 1
  cpu       = var.cpu
  memory    = var.memory
  ports     = { postgres = 5432 }
  env       = { POSTGRES_DB = var.database, POSTGRES_USER = var.user, PGDATA = "/var/lib/postgresql/data/pgdata" }
  secrets   = { POSTGRES_PASSWORD = "${clusterd_secret.this.name}/password" }
  mounts    = { "/var/lib/postgresql/data" = { volume = "${var.name}-data", size = var.storage } }
  # The image takes the password when it makes the data. Data that is there,
  # such as that of a module before this one, is told of it first.
  command = ["bash", "-c", file("${path.module}/start.sh")]
  health = {
    exec         = ["pg_isready", "-h", "127.0.0.1", "-U", var.user]
    interval     = "2s"
    timeout      = "5s"
    grace_period = "60s"
  }
  stop                = { signal = "SIGINT", grace_period = "60s" } # fast shutdown: it ends sessions, and checkpoints
  deletion_protection = var.deletion_protection
}

resource "clusterd_service" "this" {
  namespace = var.namespace
  name      = var.name
  app       = clusterd_app.this.name
  ports     = { postgres = { port = 5432, target = "postgres" } }
}
