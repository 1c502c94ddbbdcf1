resource "clusterd_app" "this" {
  namespace = var.namespace
  name      = var.name
  image     = var.image
  command   = var.command
  replicas  = var.replicas
  cpu       = var.cpu
  memory    = var.memory
  env       = var.env
  secrets   = var.secrets
  stop      = { grace_period = var.finish_within }
  update    = { strategy = var.overlap ? "rolling" : "recreate" }
}
