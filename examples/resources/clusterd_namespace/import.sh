terraform import clusterd_namespace.shop shop
