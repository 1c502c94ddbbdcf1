resource "clusterd_job" "this" {
  namespace   = var.namespace
  name        = var.name
  image       = var.image
  command     = var.command
  schedule    = var.schedule
  time_zone   = var.time_zone
  concurrency = "forbid"
  retries     = var.retries
  deadline    = var.deadline
  keep        = 5
  cpu         = var.cpu
  memory      = var.memory
  env         = var.env
  secrets     = var.secrets
}
