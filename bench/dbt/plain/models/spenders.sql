{{ config(materialized='table') }}
select who from {{ ref('totals') }} where spent > 4000 and orders_count > 50
