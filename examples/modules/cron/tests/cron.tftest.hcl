variables {
  name     = "module-cron"
  image    = "nginx:1.0"
  command  = ["sh", "-c", "rm -rf /tmp/*"]
  schedule = "15 2 * * *"
}

run "is_scheduled" {
  assert {
    condition     = clusterd_job.this.schedule == "15 2 * * *" && clusterd_job.this.concurrency == "forbid"
    error_message = "The job is not what was asked for."
  }
}

run "refuses_every_minute" {
  command = plan
  variables {
    schedule = "* * * * *"
  }
  expect_failures = [var.schedule]
}

run "refuses_another_number_of_fields" {
  command = plan
  variables {
    schedule = "@daily"
  }
  expect_failures = [var.schedule]
}
