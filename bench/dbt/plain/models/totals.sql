{{ config(materialized='incremental', unique_key='who', indexes=[{'columns': ['who'], 'unique': true}]) }}
select who, sum(total) as spent, count(*) as orders_count, max(loaded_at) as loaded_at
from raw.orders
{% if is_incremental() %}
where who in (select who from raw.orders where loaded_at > (select max(loaded_at) from {{ this }}))
{% endif %}
group by who
