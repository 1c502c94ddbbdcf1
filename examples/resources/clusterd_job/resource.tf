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
