{{ config(type='text') }}
-- depends_on: {{ ref('customers') }}
null
