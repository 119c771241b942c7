{{ config(exit_when='orders_total < 50', grants={'select': ['regress_dbt_reader']}) }}
{{ cdp.cdp_name(ref('orders_total')) }} > 100 and {{ cdp.cdp_name(ref('plan')) }} = 'plus'
