# Runs once, and again whenever the schema changes; apply waits for it, so what
# depends on it starts on a database that fits.
resource "clusterd_job" "migrate" {
  name     = "migrate"
  image    = "shop/migrate:1.4"
  command  = ["/api", "migrate"]
  retries  = 2
  deadline = "10m"
  triggers = { schema = sha256("create table orders ();") }
}

# Runs every night, and never twice at a time.
resource "clusterd_job" "report" {
  name        = "report"
  image       = "shop/report:1.4"
  schedule    = "15 2 * * *"
  time_zone   = "Europe/Berlin"
  concurrency = "forbid"
  catch_up    = "1h"
  keep        = 7
}
