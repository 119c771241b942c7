{{ cdp.cdp_name(ref('orders_total')) }} / nullif({{ cdp.cdp_name(ref('orders_count')) }}, 0)
