terraform import clusterd_token.ci ci
