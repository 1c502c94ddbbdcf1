output "millicpu" {
  value = provider::clusterd::millicpu("0.5") # 500
}
