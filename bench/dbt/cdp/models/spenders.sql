{{ config(materialized='cdp_segment') }}
{{ cdp.cdp_name(ref('spent')) }} > 4000 and {{ cdp.cdp_name(ref('orders_count')) }} > 50
