output "bytes" {
  value = provider::clusterd::bytes("64Mi") # 67108864
}
