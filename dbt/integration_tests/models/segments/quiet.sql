not in_segment('{{ cdp.cdp_name(ref('spenders')) }}') and did_not('Order Completed')
