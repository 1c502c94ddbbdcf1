variables {
  name  = "module-worker"
  image = "nginx:1.0"
}

run "works" {
  assert {
    condition     = clusterd_app.this.replicas == 1 && clusterd_app.this.stop.grace_period == "30s"
    error_message = "The app is not what was asked for."
  }
}

run "replaces_without_overlap" {
  variables {
    image   = "nginx:2.0"
    overlap = false
  }
  assert {
    condition     = clusterd_app.this.update.strategy == "recreate"
    error_message = "Old and new pods would work at the same time."
  }
}

run "refuses_latest" {
  command = plan
  variables {
    image = "nginx:latest"
  }
  expect_failures = [var.image]
}
