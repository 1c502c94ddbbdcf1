data "clusterd_logs" "web" {
  app  = "web"
  tail = 5
}

output "last_lines" {
  value = { for pod, log in data.clusterd_logs.web.pods : pod => log.lines }
}
